"""Experiments: one engine, one file an experiment.

`cells`: what an experiment varies; `config`, `base`: what it can be told and what it is; `cost`: its forecast; `work`:
one cell as processes; `engine`: all of them, here or on a cluster; `table`: their rows; `report`: what they say.
"""
