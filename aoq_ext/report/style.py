"""The report's style sheet. Every colour is a variable, so light, dark and print differ only in the first blocks.

Colours follow the Okabe-Ito palette, darkened on white for contrast; dashes and marks carry the same information.
"""

_LIGHT = """
--paper:#fdfdfb;--card:#ffffff;--ink:#1d2125;--soft:#59636e;--line:#dfe2e0;--shade:#eef0ee;
--first:#0a6aa6;--second:#c4500a;--positive:#00785a;--online:#9b4a8f;--offline:#a87400;
--good:#00714f;--bad:#b3261e;--goodpaper:#e4f3ec;
"""

_DARK = """
--paper:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9ba5af;--line:#343a40;--shade:#23282d;
--first:#62b5ee;--second:#f5924f;--positive:#45c9a0;--online:#d991cd;--offline:#e9b949;
--good:#5bd3a4;--bad:#ff8a80;--goodpaper:#173328;
"""

_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,footer{max-width:1040px;margin:0 auto;padding:0 20px}
header{padding-top:40px}
h1{font-size:clamp(1.7rem,5vw,2.5rem);line-height:1.15;margin:0 0 .4em;letter-spacing:-.02em;text-wrap:balance}
h2{font-size:1.45rem;margin:2.6em 0 .5em;padding-top:.7em;border-top:1px solid var(--line);letter-spacing:-.01em}
h3{font-size:1.05rem;margin:1.8em 0 .5em}
p{margin:.5em 0 .9em;max-width:46em}
.eyebrow{color:var(--soft);font-size:.85rem;margin:0 0 .6em}
.lede{font-size:1.1rem}
.small,figcaption,.facts{color:var(--soft);font-size:.88rem}
figcaption{max-width:54em;margin-top:.6em}
figcaption b,.small b{color:var(--ink);font-weight:600}
figure{margin:1em 0 1.6em}
nav{display:flex;flex-wrap:wrap;gap:.3em 1.1em;font-size:.9rem;margin:1.2em 0}
a{color:var(--first)}
sub,sup{line-height:0}

.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:16px;margin:1.4em 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.tile h3{margin:0;font-size:.95rem}
.tile .figures{font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums;margin:.25em 0 .1em;line-height:1.25}
.tile .figures small{font-size:.82rem;font-weight:400;color:var(--soft)}
.tile p{margin:.2em 0 0}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}

.steps{display:flex;gap:3px;margin:.4em 0 .6em;height:22px}
.steps span{background:var(--soft);min-width:3px;border-radius:3px}
.steps .first{background:var(--first)}.steps .second{background:var(--second)}
ol.legend{padding:0;margin:.3em 0;list-style:none}
.legend{display:flex;flex-wrap:wrap;gap:.2em 1.4em;font-size:.9rem;margin:.5em 0;padding:0;list-style:none}
.legend svg{width:34px;height:12px;vertical-align:-1px;margin-right:.4em}
.chip{display:inline-block;width:12px;height:12px;border-radius:3px;background:var(--soft);margin-right:.45em;vertical-align:-1px}
.chip.first{background:var(--first)}.chip.second{background:var(--second)}

.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:16px}
.tables{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,315px),1fr));gap:14px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px;margin:0;
break-inside:avoid;min-width:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%;font-size:.93rem}
caption{text-align:left;font-weight:600;padding-bottom:.5em}
th,td{padding:.32em .5em;text-align:right;border-bottom:1px solid var(--line);font-weight:400;white-space:nowrap}
caption .small{display:block;font-weight:400;font-size:.8rem}
.tables table{font-size:.88rem}.tables th,.tables td{padding-left:.2em;padding-right:.2em}
.tables .card{padding:12px}
.tables td small{font-size:.72rem}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{color:var(--soft);font-size:.85rem;vertical-align:bottom}
tbody tr.total th,tbody tr.total td{font-weight:600;border-bottom:0}
tr.way th{color:var(--soft);font-size:.85rem;padding-top:1em;text-align:left}
td small{font-size:.78rem;display:inline-block;width:3.7em;text-align:left;padding-left:.4em}

svg.panel{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{font-family:inherit;fill:var(--ink)}
svg .title{font-size:15px;font-weight:600}
svg .tick,svg .label,svg .note{font-size:13px;fill:var(--soft)}
svg .tick{font-variant-numeric:tabular-nums}
svg .grid{stroke:var(--line);stroke-width:1}
svg .axis{stroke:var(--soft);stroke-width:1}
svg .shade{fill:var(--shade)}
.first{--c:var(--first)}.second{--c:var(--second)}
.positive{--c:var(--positive)}.online{--c:var(--online)}.offline{--c:var(--offline)}
svg .line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}
svg .line.first{stroke-dasharray:6 4}
svg .dot{fill:var(--c);stroke:var(--card);stroke-width:1}
svg .dot.first{fill:var(--card);stroke:var(--c);stroke-width:1.5}
svg .ring{fill:none;stroke:var(--c);stroke-width:1.6}
svg .ring.first{stroke-dasharray:3 2}
svg .area{fill:var(--c);fill-opacity:.16;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
svg .rule{stroke:var(--c);stroke-width:1.2;opacity:.8}
svg .area.online,svg .rule.online{stroke-dasharray:6 3}
svg .area.offline,svg .rule.offline{stroke-dasharray:2 2.5}

img{image-rendering:pixelated;width:96px;height:96px;object-fit:contain;flex:none;
background:#fff;border:1px solid var(--line);border-radius:8px}
img.mini{width:32px;height:32px;border-radius:4px}
.query{display:flex;gap:14px;align-items:flex-start;margin-bottom:10px}
.query p{margin:0}
.query span.small{display:inline-block}
.query .said{font-weight:600;overflow-wrap:anywhere}
.tag{display:inline-block;font-size:.78rem;border:1px solid currentColor;border-radius:99px;
padding:0 .65em;margin-bottom:.3em}
ol.answers{list-style:none;margin:0;padding:0;font-size:.92rem}
ol.answers li{display:flex;gap:.6em;align-items:center;padding:.28em .45em;
border-top:1px solid var(--line);overflow-wrap:anywhere}
ol.answers li.right{background:var(--goodpaper);font-weight:600}
ol.answers .mark{flex:none;width:1.1em;color:var(--good)}
ol.answers .text{flex:1;min-width:0}
ol.answers .score,.found .score{color:var(--soft);font-weight:400;font-variant-numeric:tabular-nums;font-size:.84rem}
.found{display:grid;grid-template-columns:repeat(5,1fr);gap:8px;list-style:none;margin:0;padding:0;text-align:center}
.found img{width:100%;height:auto;max-width:96px}
.found .right img{outline:3px solid var(--good);outline-offset:1px}
.found .right .score{color:var(--good);font-weight:600}
.formula{font-family:"STIX Two Text","Cambria Math",Cambria,Georgia,"Times New Roman",serif;
font-size:1.08rem;line-height:1.9;
background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 18px;overflow-x:auto}
.formula span{white-space:nowrap}
.formula .more{padding-left:1.4em}
details{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 16px}
summary{cursor:pointer;font-weight:600}
details td{text-align:left;white-space:normal;overflow-wrap:anywhere;
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.82rem}
details th{text-align:left}
tr.differs td,tr.differs th{font-weight:700}
footer{color:var(--soft);font-size:.85rem;padding-top:2em;padding-bottom:3em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.2em;margin:.6em 0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}

@media (max-width:520px){
  body{font-size:15px}
  main,header,footer{padding-left:14px;padding-right:14px}
  svg .tick,svg .label,svg .note{font-size:15px}
  svg .title{font-size:17px}
  .query img{width:72px;height:72px}
  .card{padding:12px}
  h2{margin-top:1.8em}
}
@media print{
  body{font-size:10.5pt}
  nav{display:none}
  main,header,footer{max-width:none;padding:0}
  .card,.tile,svg.panel,tr,li,figcaption{break-inside:avoid}
  h2,h3{break-after:avoid}
  .grid,.cards{grid-template-columns:1fr 1fr}
  details::details-content{content-visibility:visible;display:block;height:auto}
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""

STYLE = (
    f":root{{{_LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n"
    f"@media print{{html{{color-scheme:light}}:root{{--paper:#fff}}}}\n"
    f"{_RULES}"
)
