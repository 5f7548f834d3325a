"""Evaluation mode for a while: every module gets its own mode back, also after an error."""

from __future__ import annotations

import pytest
from torch import nn

from cs336_sft.model.loading import evaluation_mode


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("root_training", [False, True])
def test_each_module_gets_its_own_mode_back(fails, root_training) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1][0].eval()
    model.training = root_training  # the root's mode says nothing about its parts
    before = modes(model)
    assert True in before and False in before
    try:
        with evaluation_mode(model) as same:
            assert same is model and modes(model) == [False] * 5
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert modes(model) == before
