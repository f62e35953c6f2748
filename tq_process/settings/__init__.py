"""Settings of a program: a file, the environment over it, flags over both, all mistakes at once.

A program has a model of pydantic, which says what is right, and a list of `setting.Setting`, which
says what each field is called in the environment and on the command line. `load` reads them,
`command` gives a typer command a flag for each.
"""
