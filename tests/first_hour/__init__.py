"""The first hour of each kind of reader: the commands of the documentation are run exactly as its pages show them.

`test_learner.py`, `test_instructor.py`, `test_engineer.py` and `test_operator.py` share one copy of the repository. It is in a
folder whose name has spaces and letters outside ASCII, with an environment from `make env` and a network that consists only of
loopback. `test_author.py` changes the repository, so it has a copy of its own. `test_set_up.py` and `test_odd_machines.py` test
machines that lack something, such as a network or free memory.
"""
