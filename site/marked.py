"The part of a text file that a script writes, between a line that begins it and one that ends it."


def replaced(text: str, begin: str, end: str, new: str) -> str:
    "The text with `new` between the two marks."
    head, rest = text.split(begin)
    _, tail = rest.split(end, 1)
    return head + begin + new + end + tail
