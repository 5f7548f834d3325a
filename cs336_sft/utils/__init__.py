"""Helpers without a subject: files, checks of fields, several processes, interrupts.

Read `files` first: atomic writes, tolerant readers, and folders that are replaced whole. `validation` has the checks
of configuration fields, `distributed` the number and the exchanges of processes, `interrupts` a Ctrl-C that waits.
"""
