"""The parts of a family's model card (README.md) that commands write: between `<!-- name -->` and `<!-- /name -->`.

budget, stages   python -m toolkit export
scores           python -m toolkit sheet
report           python -m toolkit report
"""

import re
from pathlib import Path


def write_part(card: Path, name: str, text: str) -> bool:
    """Puts text between the card's two comments of that name; False if there is no card or it has none."""
    before = card.read_text(encoding="utf-8") if card.exists() else ""
    between = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", flags=re.DOTALL)
    after, found = between.subn(lambda match: f"{match[1]}{text}\n{match[2]}", before)
    if found:
        card.write_text(after, encoding="utf-8")
    return bool(found)
