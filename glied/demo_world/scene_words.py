"""The words for what is in a scene: synonyms of nouns, adjectives, places, relations, verbs, openings.

The first of several words is the canonical one, which descriptions use.
"""

from __future__ import annotations

NOUNS: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy"),
    "woman": ("woman", "lady"),
    "dog": ("dog", "puppy"),
    "cat": ("cat", "kitten"),
    "horse": ("horse", "pony"),
    "cow": ("cow", "bull"),
    "sheep": ("sheep", "lamb"),
    "car": ("car", "vehicle"),
    "bus": ("bus", "vehicle"),
    "truck": ("truck", "vehicle"),
    "bicycle": ("bicycle", "bike"),
    "boat": ("boat", "ship"),
    "umbrella": ("umbrella", "parasol"),
    "house": ("house", "home"),
    "sofa": ("sofa", "couch"),
    "table": ("table", "desk"),
    "cup": ("cup", "mug"),
    "vase": ("vase", "flower vase"),
    "box": ("box", "crate"),
    "surfboard": ("surfboard", "board"),
    "backpack": ("backpack", "bag"),
    "lamp": ("lamp", "light"),
    "chair": ("chair", "seat"),
    "bench": ("bench", "park bench"),
    "clock": ("clock", "wall clock"),
    "ball": ("ball", "toy ball"),
}
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "striped": ("striped", "stripy"),
    "gray": ("gray", "grey"),
    "brown": ("brown", "tan"),
    "yellow": ("yellow", "golden"),
}
IRREGULAR = {"man": "men", "woman": "women", "person": "people", "sheep": "sheep"}
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
GARMENTS = {"man": "shirt", "woman": "dress"}
PRONOUNS = {"man": "him", "woman": "her"}

PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on a sandy beach", "on the beach", "at the beach", "on the sand"),
    "field": ("in a grassy field", "in a field", "on the grass", "in a meadow"),
    "snow": ("in the snow", "on a snowy field", "in deep snow"),
    "street": ("on a city street", "on the street", "in the city", "on the road"),
    "park": ("in a park", "in the park", "at the park", "on the grass"),
    "room": ("in a living room", "in a room", "on the floor"),
    "kitchen": ("in a kitchen", "in the kitchen", "on the kitchen floor"),
    "desert": ("in a desert", "in the desert", "on dry sand", "in a sandy desert"),
    "mountain": ("in the mountains", "near the mountains", "by the mountains"),
}
LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("on a sunny day", "during the day", "under a blue sky"),
    "sunset": ("at sunset", "at dusk"),
    "night": ("at night", "during the night"),
    "overcast": ("on a cloudy day", "under a cloudy sky"),
}
INDOOR_LIGHT_WORDS = {
    **LIGHT_WORDS,
    "day": ("during the day",),
    "overcast": ("on a cloudy day",),
}
LIGHT_PHRASES = {
    "day": "a sunny day",
    "sunset": "a sunset sky",
    "night": "a night sky",
    "overcast": "a cloudy sky",
}
INDOOR_LIGHT_PHRASES = {"day": "daytime", "sunset": "sunset", "night": "night", "overcast": "a cloudy day"}
PLACE_PHRASES = {
    "beach": "a sandy beach", "field": "a grassy field", "snow": "the snow", "street": "a city street",
    "park": "a park", "room": "a living room", "kitchen": "a kitchen", "desert": "a desert",
    "mountain": "the mountains",
}  # fmt: skip
STUFF_CLAUSES: dict[str, tuple[str, ...]] = {
    "sea": ("with the sea in the background", "near the sea", "with the ocean behind"),
    "building": ("with buildings in the background", "near some buildings", "with a building behind"),
    "mountain": ("with mountains in the background", "near a mountain"),
    "pond": ("near a pond", "by a pond"),
    "window": ("near a window", "with a window in the background"),
    "counter": ("near a counter", "with a counter in the background"),
    "rug": ("with a rug on the floor",),
    "cloud": ("with clouds in the sky",),
    "moon": ("with the moon in the sky",),
    "sun": ("with the sun in the sky",),
    "sidewalk": ("near a sidewalk",),
    "path": ("with a path",),
    "wall": ("in front of a wall",),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "next to": ("next to", "beside", "near", "by"),
    "left of": ("to the left of", "on the left of", "left of", "next to"),
    "right of": ("to the right of", "on the right of", "right of", "next to"),
    "in front of": ("in front of",),
    "behind": ("behind",),
    "on": ("on", "on top of"),
    "under": ("under", "underneath"),
    "above": ("above", "over"),
    "holding": ("holding", "with", "and"),
    "riding": ("riding", "on", "on top of"),
}
# Relations that can also be described from the partner's side: "a table with a cup on it".
INVERSE = {
    "next to": "next to",
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
}
REVERSIBLE = frozenset({"next to", "in front of", "behind", "on", "under", "above"})
ZONE_WORDS = {
    "air": ("in the sky", "in the air", "flying in the sky"),
    "water": ("on the water", "in the water"),
    "wall": ("on the wall",),
    "tabletop": ("on the counter",),
    "far": ("in the background",),
    "left": ("on the left",),
    "right": ("on the right",),
    "near": ("nearby",),
}
VERBS = {
    "standing": ("standing",),
    "sitting": ("sitting", "seated"),
    "flying": ("flying",),
    "floating": ("floating",),
    "parked": ("parked",),
    "placed": ("placed", "sitting"),
}
OPENINGS = (
    "there is",
    "a photo of",
    "a picture of",
    "a view of",
    "an image of",
    "this is",
    "a scene with",
)
