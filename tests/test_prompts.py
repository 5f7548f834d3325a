from __future__ import annotations

from dataclasses import replace

import pytest

from cs336_sft.errors import ConfigError
from cs336_sft.grading import get_reward_fn
from cs336_sft.prompts import TEMPLATE_NAMES, PromptTemplate, few_shot, get_template
from cs336_sft.records import Problem

TWO = Problem("1 + 1?", "1+1 = <<1+1=2>>2\n#### 2", "2")
FIVE = Problem("2 + 3?", "2+3 = <<2+3=5>>5\n#### 5", "5")


def test_the_text_of_the_gsm8k_template():
    assert get_template("gsm8k").prompt(FIVE) == (
        "Solve the problem step by step and put the final answer on the last line after ####.\n\n"
        "Question: 2 + 3?\nAnswer:"
    )


def test_a_template_of_ones_own_names_its_grader():
    mine = PromptTemplate("mine", "Q: {question}\nA:", lambda problem: f" \\boxed{{{problem.final}}}", "question_only")
    assert mine.prompt("why {x} and {question}?") == "Q: why {x} and {question}?\nA:"
    assert get_reward_fn(mine.style)(mine.respond(FIVE), FIVE.final)["reward"] == 1.0
    with pytest.raises(ConfigError, match="'blind' has no {question}"):
        PromptTemplate("blind", "Answer:", mine.respond, "gsm8k")
    with pytest.raises(ConfigError, match="no prompt template is called 'mine'.*choose one of gsm8k"):
        get_template("mine")


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_few_shot_puts_solved_problems_in_front(name):
    template = get_template(name)
    shots = few_shot(template, [TWO, replace(FIVE, question="what is {question}?")])
    assert shots.name == f"{name}_2_shot" and shots.style == template.style and shots.stop == template.stop
    prompt = shots.prompt(FIVE)
    first = template.prompt(TWO) + template.respond(TWO) + "\n\n"
    frame = template.prompt(FIVE).rsplit("\n\n", 1)[-1]
    assert prompt.startswith(first) and prompt.endswith("\n\n" + frame)
    assert prompt.count("what is {question}?") == 1
    assert prompt.count("Solve the problem step by step") == (name == "gsm8k"), "the instruction is given once"
    assert few_shot(template, []).prompt(FIVE) == template.prompt(FIVE)
    assert shots.respond(FIVE) == template.respond(FIVE)


def test_the_fingerprint_is_of_the_text_and_not_of_the_name():
    template = get_template("r1_zero")
    assert template.fingerprint == replace(template, name="other").fingerprint
    changed = [
        replace(template, text=template.text + " "),
        replace(template, stop=()),
        replace(template, style="gsm8k"),
        replace(template, respond=lambda problem: problem.answer),
        few_shot(template, [TWO]),
    ]
    assert len({template.fingerprint, *(other.fingerprint for other in changed)}) == 6
    # The same in every process and on every machine: run folders store it.
    assert get_template("gsm8k").fingerprint == "9005edcdd198043b"
