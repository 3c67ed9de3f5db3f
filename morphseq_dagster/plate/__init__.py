"""What people say about a plate: the well workbook and the key of perturbations."""
