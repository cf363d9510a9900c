"""The reference implementations of the course, one module a topic, in the order of the lessons."""
