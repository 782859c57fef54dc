"""The first hour of each kind of reader: the commands of the documentation run as they stand on its pages.

`test_learner.py`, `test_instructor.py`, `test_engineer.py` and `test_operator.py` share one copy of the repository, in a folder
with spaces and letters outside ASCII, with an environment from `make env`, on a network that is a loopback alone.
`test_author.py` changes its copy, so it has its own. `test_set_up.py` and `test_odd_machines.py` are about machines that lack
something.
"""
