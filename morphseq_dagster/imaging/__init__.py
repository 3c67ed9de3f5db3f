"""Raw microscope files to one focused 8-bit grey picture per well and time point."""
