"""Goldens of the gateway's tokenizer: strings with ids, and markers with subject positions."""

import itertools
import random
import unicodedata
from pathlib import Path

from transformers import CLIPTokenizerFast

from toolkit.reference.prompt import MARKER, PromptError, encode, place_markers

PERSON_NOUNS = ["woman", "man", "girl", "boy", "person", "child"]


def write(internal: Path, tokenizer: CLIPTokenizerFast, write_lines) -> None:
    """internal: the folder of the gateway's packages."""
    folder = internal / "tokenizer" / "testdata"
    lines = []
    for text in dict.fromkeys(strings(tokenizer)):
        # transformers' own truncation, not ours: 76 + end-of-text, unpadded
        ids = tokenizer(text, truncation=True, max_length=77)["input_ids"]
        stream = tokenizer(text, add_special_tokens=False)["input_ids"]
        lines.append({"text": text, "ids": ids, "cut_ids": stream[75:]})
    write_lines(folder / "strings.jsonl.gz", lines)

    lines = []
    for prompt in dict.fromkeys(marked_prompts()):
        try:
            p = encode(tokenizer, prompt)
            lines.append({"prompt": prompt, "ids": p.input_ids, "positions": p.positions, "text": p.text})
        except PromptError as error:
            lines.append({"prompt": prompt, "error": error.reason})
    write_lines(folder / "markers.jsonl.gz", lines)

    lines = []
    for prompt, images in placements():
        try:
            used = place_markers(prompt, images, PERSON_NOUNS)
            lines.append({"prompt": prompt, "images": images, "used": used})
        except PromptError as error:
            lines.append({"prompt": prompt, "images": images, "error": error.reason})
    write_lines(internal / "placement" / "testdata" / "placements.jsonl.gz", lines, person_nouns=PERSON_NOUNS)


def strings(tokenizer: CLIPTokenizerFast):
    """More than 10,000 strings of every kind of text a prompt may hold."""
    rng = random.Random(20240607)
    yield from EXAMPLES
    # every assigned code point of the BMP in plain text, eight at a time, and many others
    assigned = [c for c in map(chr, range(0x10000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    for at in range(0, len(assigned), 8):
        yield " ".join(assigned[at : at + 4]) + "x" + "".join(assigned[at + 4 : at + 8])
    astral = [c for c in map(chr, range(0x10000, 0x20000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    for _ in range(800):
        yield "".join(rng.choices(astral, k=6)) + rng.choice(["", " a", "9"])
    words = sorted(w[:-4] for w in tokenizer.get_vocab() if w.endswith("</w>") and w[:-4].isascii())
    for _ in range(2000):
        yield " ".join(rng.choices(words, k=rng.randint(1, 12)))
    for _ in range(1500):  # captions with case, punctuation, digits and contractions
        parts = [rng.choice([w, w.upper(), w.title()]) + rng.choice(ENDINGS) for w in rng.choices(words, k=9)]
        yield rng.choice(SPACES).join(parts)
    for _ in range(1500):  # scripts, combining marks and emoji mixed
        yield "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 14)))
    for _ in range(800):  # bytes of ASCII, control characters included
        yield "".join(chr(rng.randrange(128)) for _ in range(rng.randint(1, 40)))
    for _ in range(300):  # longer than 77 tokens
        yield " ".join(rng.choices(words, k=rng.randint(70, 160)))
    for n in range(70, 82):
        yield " ".join(["cat"] * n)
        yield "é" * n + "!" * n
    yield from unicode_strings()


def unicode_strings():
    """Where implementations disagree about Unicode: its youngest letters and numbers, every mark
    beside others whose classes it has to be ordered with, and normalisation itself."""
    for first, last in YOUNG_LETTERS:
        for c in sorted({first, (first + last) // 2, last}):
            yield f"x{chr(c)}x !{chr(c)}!"
    marks = [chr(c) for c in range(0x20000) if unicodedata.combining(chr(c)) or c in YOUNG_MARKS]
    for mark in marks:
        yield f"a{mark}\u0316 a\u0315{mark} a\u0315\u0316{mark}"
    rng = random.Random(9)
    for length in (29, 30, 31, 32, 60):  # Unicode's stream-safe text ends at 30
        yield "a" + "\u0316\u0301\u0327" * length
        yield "e" + "".join(rng.choices(marks, k=length)) + "x"
    yield from [
        "\u1100\u1161\u11a8",
        "\uac00\u11a8",
        "\u1100\u1161 \u1161\u11a8",
        "\U00011935\U00011930",
        "\u212b\u2126\ufb1d\u0344",
    ]


YOUNG_LETTERS = [  # and numbers: assigned or given lower case in Unicode 15.1, 16 or 17
    (0x1C89, 0x1C8A), (0xA7CB, 0xA7CD), (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D5), (0xA7DA, 0xA7DD), (0x105C0, 0x105F3), (0x10D40, 0x10D49),
    (0x10D4A, 0x10D4F), (0x10D50, 0x10D65), (0x10D6F, 0x10D85), (0x10EC2, 0x10EC4), (0x11380, 0x11389), (0x1138B, 0x1138E),
    (0x11390, 0x113B5), (0x113B7, 0x113B8), (0x113D1, 0x113D3), (0x116D0, 0x116E3), (0x11BC0, 0x11BE0), (0x11BF0, 0x11BF9),
    (0x13460, 0x143FA), (0x16100, 0x1611D), (0x16130, 0x16139), (0x16D40, 0x16D6C), (0x16D70, 0x16D79), (0x16EA0, 0x16EB8),
    (0x16EBB, 0x16ED3), (0x18CFF, 0x18CFF), (0x1CCF0, 0x1CCF9), (0x1E5D0, 0x1E5ED), (0x1E5F0, 0x1E5F0), (0x1E5F1, 0x1E5FA),
    (0x2EBF0, 0x2EE5D), (0x323B0, 0x33479),
]  # fmt: skip
# marks of Unicode 15, which an older Python does not know
YOUNG_MARKS = {0x10EFD, 0x10EFE, 0x10EFF, 0x11F41, 0x11F42, 0x1E08F, 0x1E4EC, 0x1E4ED, 0x1E4EE, 0x1E4EF}


ENDINGS = ["", "", "", ",", ".", "!", "?", "...", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "’s", ":", ";", ")"]
ENDINGS += ["1", "42", "-", "'S"]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", " \r\n ", "\u2028", "\x85", "\x0b"]
PIECES = [
    "naïve ", "e\u0301", "e\u0301\u0302", "\u0301", "Å", "\u212b", "\u212a", "İ", "I", "ı", "ß", "ẞ", "ΣΑΣ", "Σ", "ς", "ǅ", "ﬁ", "Ω", "\u2126",
    "привет ", "ЙОЖ", "и\u0306", "مرحبا", "שלום", "नमस्ते", "สวัสดี", "你好", "こんにちは", "が", "か\u3099", "안녕", "\u1112\u1161\u11ab", "한",
    "👩‍🎤", "👨‍👩‍👧‍👦", "🧑🏽", "🇫🇷", "❤️", "☃", "1️⃣", "😀", "🫠", "½", "²", "Ⅷ", "٣", "①", "१२", "𝔸", "𐐀", "€", "™", "…", "—", "“q”",
    " ", "  ", "\n", "\u200b", "\u200d", "\ufeff", "\ufe0f", "\x00", "\x1c", "\x85", "\xad", "_", "__", "-", "'", "''", "'s", "'ll", "'LL", "don't",
    "a", "B", "7", "10", "<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|", "|>", "<|im|>", "</w>", "Ġ", "img", "#", "&amp;", "\\",
]  # fmt: skip
EXAMPLES = [
    "", " ", "\n\t", "a", "A", "a woman reading in the snow at night", "A photo of a woman's hat, isn't it?", "they'll've I'm we'd you're",
    "2024-06-07 10:30", "<|endoftext|>", "<|startoftext|>a<|endoftext|>", "x<|endoftext|>y", "<|EndOfText|>", "<|image |>", "< |image|>",
    "<|IMAGE|>", "e\u0301cole", "école", "ﬁne", "don''t", "'s", "s'", "'", "rock'n'roll", "l'été", "woman,man;child", "a_b-c", "\ufeffa",
    "a\x00b", "a\u200bb", "👩‍🎤 singing", "\U0001f1eb\U0001f1f7", "ΑΣ ΑΣΑ", "İstanbul", "STRASSE straße", "\u1112\u1161\u11ab", "１２３ ＡＢＣ",
    "&lt;b&gt;", "http://example.org/?a=1&b=2", "((masterpiece:1.2))", "[a|b]", "\\(x\\)", "a  b   c", "\u3000a\u3000", "a\u2028b",
]  # fmt: skip


def marked_prompts():
    """Markers at every place of short prompts, some with text that needs care."""
    bases = [
        "a woman reading in the snow",
        "a woman and a man on the beach",
        "a man's hat, a woman",
        "Girl.",
        "an unphotographable grandmother, 2 dogs",
        "école <|endoftext|> naïve 👩 x",
    ]
    for base in bases:  # at every character, so inside words, at ends, before punctuation
        for at in range(len(base) + 1):
            for form in (MARKER, f" {MARKER} ", f" {MARKER}", f"{MARKER} "):
                yield base[:at] + form + base[at:]
    for base in bases[:2]:  # after all pairs, triples and quadruples of words
        words = base.split()
        for count in (2, 3, 4):
            for chosen in itertools.combinations(range(len(words)), count):
                yield " ".join(w + f" {MARKER}" * (i in chosen) for i, w in enumerate(words))
    yield from [
        MARKER,
        f"{MARKER} a woman",
        f"a woman {MARKER}{MARKER}",
        f"a woman {MARKER} {MARKER} reading",
        f"a woman {MARKER}, {MARKER} reading",
        f"a woman\n{MARKER}\t\u3000reading",
        f"a WOMAN {MARKER} reading",
        "a woman <|IMAGE|> reading",
        f"a woman <|image|{MARKER}",
    ]
    for n in range(70, 80):  # around the cut
        yield " ".join(["cat"] * n) + f" {MARKER}"
        yield " ".join(["cat"] * n) + f" {MARKER} dog dog dog"
        yield f"a dog {MARKER} " + " ".join(["cat"] * n) + f" woman {MARKER}"


def placements():
    for prompt in [
        "a woman reading in the snow",
        "a Woman and a MAN on the beach",
        f"a woman {MARKER} and a man {MARKER} on the beach",
        f"a woman {MARKER} and a man on the beach",
        f"a woman {MARKER} img",
        "a woman img reading",
        "a woman img and a man img",
        "img",
        "an IMG of a woman",
        "imgs of a boy, img_1, img-2, img.",
        "a woman's hat",
        "man-made lake and a superwoman",
        "two friends at a table",
        "a child, a girl, a boy and a person",
        "women and men",
        "a snowy forest",
        "",
        "été: une femme, a girl\nand a boy",
        "woman1 _man girl",
    ]:
        for images in range(5):
            yield prompt, images
