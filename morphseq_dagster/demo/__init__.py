"""Maker of a synthetic plate whose truth is known; it reads no pictures, for it must not know how it is judged."""
