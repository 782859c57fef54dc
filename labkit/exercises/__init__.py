"""What the course asks of a learner: statements, inputs, references, known mistakes. Checks nothing itself."""
