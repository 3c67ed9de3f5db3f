"""Maker of a synthetic plate whose truth is known.

Holds the drawing of embryos and wells, the microscope that takes Keyence-like pictures of them, the workbook and
the truth. Does not hold anything that reads pictures back: the demo must not know how it is judged.
"""
