"""The exercises and claims of the lessons: one module a lesson, `lesson_NN.py`, with EXERCISES
and CLAIMS.

One source each: the notebook shows an exercise's stub and names its id, the module of the lesson
holds the reference, and everything else about it (cases, hints, known mistakes) is here.
"""
