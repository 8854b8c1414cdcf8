"""How good captions are: text metrics against references, and pages to look at."""
