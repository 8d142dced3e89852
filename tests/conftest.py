"""What all tests share: Hypothesis draws the same examples every time, and takes the time that it takes."""

from hypothesis import settings

settings.register_profile("milepost", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("milepost")
