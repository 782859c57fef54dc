"""The exercises of the course: statements, inputs, right answers and known mistakes. Checks nothing itself."""
