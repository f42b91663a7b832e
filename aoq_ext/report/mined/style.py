"""The shared style sheet with the few rules that only this page needs."""

from aoq_ext.report.style import STYLE

MINED_STYLE = (
    STYLE
    + """
.tiles{grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr))}
.tile .figures{font-size:1.15rem}
.last{--c:var(--first)}
svg .area.last,svg .rule.last{stroke-dasharray:10 3 2 3}
svg .area.first{stroke-dasharray:6 4}
svg .note{fill:var(--ink)}
.grid svg.panel{max-width:620px}
img.photo{image-rendering:auto}
img.mini{width:44px;height:44px}
.comparison th[scope=row]{white-space:normal}
.card ul.own{margin:.2em 0 0;padding:0;list-style:none;font-size:.9rem}
.card ul.own li{overflow-wrap:anywhere}
.card .said,.card .text{overflow-wrap:anywhere}
.own .score{color:var(--soft);font-variant-numeric:tabular-nums;font-size:.84rem}
.hubs{margin-top:16px}
.none{color:var(--soft);font-style:italic}
.advice{background:var(--card);border-left:3px solid var(--positive);padding:.5em .9em;border-radius:0 8px 8px 0}
ol.answers .count{flex:none;min-width:4.2em;text-align:right;font-variant-numeric:tabular-nums}
@media (max-width:520px){
  .tiles{grid-template-columns:1fr 1fr;gap:10px}
  .tile{padding:10px 12px}
  .comparison td,.comparison th{padding-left:.25em;padding-right:.25em;white-space:normal}
}
@media print{
  .comparison td,.comparison th{white-space:normal}
  .scroll{overflow:visible}
  .legend{break-after:avoid}
  .advice{break-inside:avoid}
}
"""
)
