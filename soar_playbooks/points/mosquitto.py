"""placeholder"""


def point(rt):
    return None
