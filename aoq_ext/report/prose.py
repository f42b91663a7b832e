"""The two sections of plain text: what the method is, and what the figures can and cannot show."""

from __future__ import annotations

from html import escape

from aoq_ext.report.data import ReportData

METHOD = """
<p>An image and its caption should score higher than any wrong pair. The usual loss compares each pair with the hardest
wrong caption and the hardest wrong image of its mini-batch (<i>online</i> negatives), which in a small batch are often
easy. <a href="https://arxiv.org/abs/2003.03669">Adaptive Offline Quintuplet loss</a> (AOQ; Chen, Deng, Luo, ECCV 2020)
adds negatives that a first model found in the <i>whole</i> training set:</p>
<div class="formula">
<div><span><i>L</i> = <i>w</i> [<i>γ</i><sub>on</sub> + <i>n</i> − <i>p</i>]<sub>+</sub> </span>
<span>+ <i>v</i> [<i>γ</i><sub>on</sub> + <i>m</i> − <i>p</i>]<sub>+</sub></span></div>
<div class="more"><span>+ [<i>γ</i><sub>off</sub> + <i>a</i> − <i>p</i>]<sub>+</sub> </span>
<span>+ [<i>γ</i><sub>off</sub> + <i>b</i> − <i>p</i>]<sub>+</sub> </span>
<span>+ [<i>γ</i><sub>off</sub> + <i>c</i> − <i>p</i>]<sub>+</sub> </span>
<span>+ [<i>γ</i><sub>off</sub> + <i>d</i> − <i>p</i>]<sub>+</sub></span></div>
<div><span><i>w</i> = <i>β</i> − (<i>a</i> − <i>n</i>) / <i>α</i>, </span>&emsp;
<span><i>v</i> = <i>β</i> − (<i>b</i> − <i>m</i>) / <i>α</i>, </span>&emsp;
<span>[<i>x</i>]<sub>+</sub> = max(0, <i>x</i>)</span></div>
</div>
<p><i>p</i> is the similarity of the pair itself; <i>n</i> and <i>m</i> are those of the hardest wrong caption and image
of the batch; <i>a</i> and <i>b</i> those of a mined caption with the image and of a mined image with the caption;
<i>c</i> pairs the two mined ones with each other, <i>d</i> pairs what they really belong to. The weights make the
online terms count less when the mined negative is the harder one. Round 1 uses the first line alone, with
<i>w</i> = <i>v</i> = 1.</p>
"""

_CAVEATS = (
    (
        "One seed.",
        "Both rounds ran once, with seed {seed}. The intervals say how much the difference depends on which test "
        "images were picked. They do not contain the luck of training: another seed moves each rsum too, so a claim "
        "about the method needs several.",
    ),
    (
        "Small data, small models.",
        "{images} small pictures and encoders that train in minutes ({dataset}). The paper’s results are on "
        "photographs with pretrained encoders; nothing here confirms or refutes them.",
    ),
    (
        "Round 2 is given more.",
        "It starts from random weights, but its negatives come from round 1’s model, and after the warm-up each of its "
        "steps embeds six items a pair where round 1 embeds two. The comparison is at equal epochs, not at equal time.",
    ),
    (
        "“Right” means “its own”.",
        "A caption that fits a picture but belongs to another one counts as wrong, in mining and in the metrics alike.",
    ),
)


def caveats(data: ReportData) -> str:
    values = {"seed": data.seed, "images": f"{data.train_images:,}", "dataset": escape(data.dataset)}
    return f"<ul>{''.join(f'<li><b>{title}</b> {text.format(**values)}</li>' for title, text in _CAVEATS)}</ul>"
