"""Evaluation by the official HEAR packages: every system, task and seed the same way.

`hearbench run` goes the whole way: tasks and systems make a plan, the sweep has the kit drive
heareval through it, scores and table read what heareval wrote.
"""
