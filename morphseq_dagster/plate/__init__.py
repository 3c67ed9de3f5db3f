"""What people say about a plate: the well workbook and the key of perturbations.

Holds readers and joins of what a lab writes by hand. Does not hold anything seen in pictures.
"""
