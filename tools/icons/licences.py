"""Who made the bundled icons, and under which terms: writes aoq_ext/data/icons/LICENSES.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LICENCES = {
    "MIT": "[MIT](#mit)",
    "ISC": "[ISC](#isc)",
    "Apache-2.0": "[Apache-2.0](LICENSE-Apache-2.0.txt)",
    "CC-BY-4.0": "[CC-BY-4.0](LICENSE-CC-BY-4.0.txt)",
    "CC-BY-3.0": "[CC-BY-3.0](https://creativecommons.org/licenses/by/3.0/legalcode)",
    "CC0-1.0": "[CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/legalcode)",
}

_HEAD = """\
# Sources and licences of the icons

The pictures in `pixels.xz` were changed: drawn at 32 × 32 pixels on white, in four levels of grey; equal ones and trade
marks were left out. The words in `index.json.xz` are the names of the icons, as `README.md` says, and, for Tabler Icons
and Lucide, keywords from their own packages (`@tabler/icons`, `lucide-static`) under the same licences. Nothing here is
endorsed by the authors named. These licences cover the data in this folder; the program code of aoq_ext has its own.

Each set is the npm package `@iconify-json/NAME` of the version given; title, author, source and licence are those that
the package names.

| Set | Title | Author | Version | Licence |
|---|---|---|---|---|
"""

_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

_ISC = """\
Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.
"""

_FEATHER = "Copyright (c) 2013-present Cole Bemis (Feather, parts of Lucide)"


def overview(sets: Iterable[dict[str, Any]]) -> str:
    """LICENSES.md, from the column "sets" of the index."""
    sets = list(sets)
    rows = "".join(
        f"| {each['name']} | [{each['title']}]({each['source']}) | {each['author']} | {each['version']} "
        f"| {LICENCES[each['licence']]} |\n"
        for each in sets
    )
    parts = [_HEAD + rows]
    for licence, text, further in (("MIT", _MIT, [_FEATHER]), ("ISC", _ISC, [])):
        holders = [f"Copyright (c) {each['author']} ({each['title']})" for each in sets if each["licence"] == licence]
        parts.append(f"## {licence}\n\n" + "".join(f"    {line}\n" for line in holders + further) + f"\n{text}")
    return "\n".join(parts)
