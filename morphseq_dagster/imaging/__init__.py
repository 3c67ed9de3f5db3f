"""Raw microscope files to one focused 8-bit grey picture per well and time point.

Holds the readers of raw layouts and the arithmetic between raw planes and focused pictures. Does not hold where
results are stored, nor anything about embryos.
"""
