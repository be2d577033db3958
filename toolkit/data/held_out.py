"""Sentences that evaluation asks for, and the combinations behind them that no training picture shows.

A sentence is held out by what it asks for, not by its words: PROMPTS gives each sentence the
combination of place, hour, weather, thing, action, accessory, clothes and style that makes it,
and `is_held_out` refuses every picture that has all of them, however its caption is worded.
"""

from dataclasses import dataclass

from toolkit.data.captions import Content

GROUPS = ("accessory", "style", "action", "context")


@dataclass(frozen=True)
class Prompt:
    """text: with {} or {0}, {1} where noun and marker of each person stand; group: of GROUPS; the
    rest is what the picture must show, None = anything."""

    group: str
    text: str
    place: str
    time: str | None = None
    weather: str | None = None
    detail: str | None = None
    action: str | None = None
    accessory: str | None = None
    accessory_colour: str | None = None
    clothes: str | None = None
    style: str | None = None
    people: int = 1

    def shown_by(self, content: Content) -> bool:
        """Whether a picture shows the whole combination (clothes and colours: worn, named or not)."""
        scene = content.scene
        wanted = (
            (self.place, scene.place),
            (self.time, scene.time),
            (self.weather, scene.weather),
            (self.detail, scene.detail),
            (self.action, content.action),
            (self.accessory, content.accessory),
            (self.accessory_colour, content.accessory_colour),
            (self.clothes, content.clothes),
            (self.style, content.style),
        )
        return self.people == content.people and all(want is None or want == got for want, got in wanted)


# The first sheet's five: twenty people in each.
SHEET = (
    Prompt("action", "a {} reading in the snow at night", "snow", "night", action="book"),
    Prompt("accessory", "a {} at the beach at sunset, wearing a red shirt", "beach", "sunset", clothes="red shirt"),
    Prompt("action", "a photo of a {} holding a cup in the forest", "forest", "day", action="cup"),
    Prompt("accessory", "a {} wearing a yellow shirt in the city at night", "city", "night", clothes="yellow shirt"),
    Prompt("action", "a {} with a balloon in the desert", "desert", "day", action="balloon"),
)

SINGLE = (
    Prompt("accessory", "a {} wearing a red scarf in the forest at night", "forest", "night",
           accessory="scarf", accessory_colour="red"),
    Prompt("accessory", "a {} wearing a crown on the moon", "moon", accessory="crown"),
    Prompt("accessory", "a {} wearing headphones in the mountains at sunset", "mountains", "sunset",
           accessory="headphones"),
    Prompt("accessory", "a {} in the desert at night, wearing a green hoodie", "desert", "night", clothes="green hoodie"),
    Prompt("accessory", "a {} wearing a blue scarf in a meadow in the rain", "meadow", weather="rain",
           accessory="scarf", accessory_colour="blue"),
    Prompt("accessory", "a photo of a {} wearing a crown in the city at sunset", "city", "sunset", accessory="crown"),
    Prompt("accessory", "a {} wearing a purple sweater in the snow at sunset", "snow", "sunset", clothes="purple sweater"),
    Prompt("accessory", "a {} underwater, wearing headphones", "underwater", accessory="headphones"),
    Prompt("accessory", "a {} at the beach at night, wearing an orange shirt", "beach", "night", clothes="orange shirt"),
    Prompt("accessory", "a {} wearing a yellow scarf in a room at night", "room", "night",
           accessory="scarf", accessory_colour="yellow"),
    Prompt("style", "a black and white photo of a {} in the city with a street lamp", "city", detail="street lamp",
           style="black and white"),
    Prompt("style", "a sepia photo of a {} in the desert with a pyramid", "desert", detail="pyramid", style="sepia"),
    Prompt("style", "a pastel drawing of a {} in a meadow at sunset", "meadow", "sunset", style="pastel"),
    Prompt("style", "a blueprint of a {} on the moon", "moon", style="blueprint"),
    Prompt("style", "a black and white photo of a {} in the forest at night", "forest", "night", style="black and white"),
    Prompt("style", "a sepia photo of a {} at the beach in the rain", "beach", weather="rain", style="sepia"),
    Prompt("style", "a pastel drawing of a {} in the snow with a snowman", "snow", detail="snowman", style="pastel"),
    Prompt("style", "a blueprint of a {} in the city at night", "city", "night", style="blueprint"),
    Prompt("style", "a sepia photo of a {} in the mountains at sunset", "mountains", "sunset", style="sepia"),
    Prompt("style", "a pastel drawing of a {} underwater", "underwater", style="pastel"),
    Prompt("action", "a {} playing the guitar at the beach at night", "beach", "night", action="guitar"),
    Prompt("action", "a {} singing in the city at sunset", "city", "sunset", action="microphone"),
    Prompt("action", "a {} eating ice cream in the desert at sunset", "desert", "sunset", action="ice cream"),
    Prompt("action", "a {} reading in a meadow", "meadow", action="book"),
    Prompt("action", "a {} waving in the mountains in the fog", "mountains", weather="fog", action="waving"),
    Prompt("action", "a {} holding an umbrella in the city in the rain", "city", weather="rain", action="umbrella"),
    Prompt("action", "a {} holding a flower on the moon", "moon", action="flower"),
    Prompt("action", "a {} drinking coffee in the snow at sunset", "snow", "sunset", action="cup"),
    Prompt("action", "a photo of a {} playing the guitar in the forest", "forest", "day", action="guitar"),
    Prompt("action", "a {} with a balloon in a room at night", "room", "night", action="balloon"),
    Prompt("context", "a {} in the mountains at night with a goat", "mountains", "night", detail="goat"),
    Prompt("context", "a {} in the desert at sunset with a cactus", "desert", "sunset", detail="cactus"),
    Prompt("context", "a {} in a meadow at night with a windmill", "meadow", "night", detail="windmill"),
    Prompt("context", "a {} at the beach at sunset with a boat", "beach", "sunset", detail="boat"),
    Prompt("context", "a {} in the forest in the fog", "forest", weather="fog"),
    Prompt("context", "a {} in the city at night in falling snow", "city", "night", weather="snowfall"),
    Prompt("context", "a {} in the snow at night with a cabin", "snow", "night", detail="cabin"),
    Prompt("context", "a {} in a room at sunset with a bookshelf", "room", "sunset", detail="bookshelf"),
    Prompt("context", "a {} underwater with a submarine", "underwater", detail="submarine"),
    Prompt("context", "a {} on the moon with a rocket", "moon", detail="rocket"),
)  # fmt: skip

DOUBLE = (
    Prompt("accessory", "a {0} and a {1} both wearing a crown in the snow", "snow", accessory="crown", people=2),
    Prompt("accessory", "a {0} and a {1} at the beach, both wearing headphones", "beach", accessory="headphones", people=2),
    Prompt("accessory", "a {0} and a {1} both wearing a red scarf in a meadow", "meadow",
           accessory="scarf", accessory_colour="red", people=2),
    Prompt("style", "a black and white photo of a {0} and a {1} at the beach", "beach", style="black and white", people=2),
    Prompt("style", "a sepia photo of a {0} and a {1} in the forest", "forest", style="sepia", people=2),
    Prompt("style", "a pastel drawing of a {0} and a {1} in the desert", "desert", style="pastel", people=2),
    Prompt("action", "a {0} and a {1} both waving in the mountains", "mountains", action="waving", people=2),
    Prompt("action", "a {0} and a {1} both waving in the city", "city", action="waving", people=2),
    Prompt("context", "a {0} and a {1} in the forest at night", "forest", "night", people=2),
    Prompt("context", "a {0} and a {1} in the desert at sunset", "desert", "sunset", people=2),
    Prompt("context", "a {0} and a {1} on the moon with a rocket", "moon", detail="rocket", people=2),
    Prompt("context", "a {0} and a {1} in the snow at night", "snow", "night", people=2),
    Prompt("context", "a {0} and a {1} in the city in the rain", "city", weather="rain", people=2),
    Prompt("context", "a photo of a {0} and a {1} in a meadow in the fog", "meadow", weather="fog", people=2),
    Prompt("context", "a {0} and a {1} in a room at night with a lamp", "room", "night", detail="lamp", people=2),
    Prompt("context", "a {0} and a {1} underwater with a fish", "underwater", detail="fish", people=2),
)  # fmt: skip

PROMPTS = SHEET + SINGLE + DOUBLE


def is_held_out(content: Content) -> bool:
    """Whether a picture shows what a held-out sentence asks for."""
    return any(prompt.shown_by(content) for prompt in PROMPTS)
