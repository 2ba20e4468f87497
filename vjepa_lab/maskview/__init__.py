"""Masks drawn over the frames of a clip, with figures: what a strategy sees, hides and leaves.

``_look`` reads a clip and masks it as a training would; ``_pixels`` paints; ``_sheet`` puts pictures and words on one
image; ``_verb`` is ``vjepa-lab masks``.
"""
