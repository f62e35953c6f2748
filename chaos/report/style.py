"""The style of the page, in light and dark mode."""

CSS = """
:root {
  color-scheme: light dark;
  --bg: #f6f7f9; --card: #ffffff; --ink: #1b2430; --muted: #5d6b7c; --line: #dde3ea;
  --good: #177245; --good-bg: #e2f4ea; --bad: #b3261e; --bad-bg: #fde7e5;
  --leader: #2f6fde; --follower: #c3d4ee; --other: #e0b64a; --down: #3d4652; --paused: #8f7bc2;
  --lost: #e29a8f; --fault: #d9534a; --band: rgba(217, 83, 74, 0.09); --quiet: #9aa8b8;
  --applied: #2f6fde; --refused: #d08a00; --unknown: #c62f25; --on-bar: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #12161c; --card: #1a2028; --ink: #e6ebf1; --muted: #98a5b5; --line: #2d3743;
    --good: #6fd6a0; --good-bg: #173426; --bad: #ff9a90; --bad-bg: #43201d;
    --leader: #5b93f5; --follower: #31435e; --other: #b8913a; --down: #0a0d11; --paused: #6f5da6;
    --lost: #8d4a42; --fault: #b8433b; --band: rgba(255, 120, 110, 0.10); --quiet: #566373;
    --applied: #6ea2ff; --refused: #f0b13c; --unknown: #ff6f64; --on-bar: #ffffff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
header p { margin: 4px 0; }
.kicker { color: var(--muted); font-size: 13px; }
h1 { font-size: 27px; line-height: 1.25; margin: 2px 0 6px; }
h2 { font-size: 17px; margin: 0 0 12px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin-top: 18px; }
code { background: var(--card); border: 1px solid var(--line); border-radius: 5px;
  padding: 2px 7px; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--bg); padding: 10px 12px;
  border-left: 4px solid var(--bad); border-radius: 4px; font-size: 12.5px; margin: 10px 0 0; }
.verdict { display: inline-block; font-size: 13px; font-weight: 600; border-radius: 20px;
  padding: 1px 11px; vertical-align: middle; white-space: nowrap; }
.good { color: var(--good); background: var(--good-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.none { color: var(--muted); border: 1px solid var(--line); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 10px;
  margin: 18px 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.tiles dt { color: var(--muted); font-size: 12.5px; }
.tiles dd { margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
.promises { list-style: none; margin: 0; padding: 0; display: grid; gap: 6px 28px;
  grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); }
.promises li { display: flex; gap: 10px; align-items: baseline; padding-bottom: 4px;
  border-bottom: 1px solid var(--line); }
.promises b { min-width: 78px; } .promises .verdict { margin-left: auto; }
.note { color: var(--muted); font-size: 13px; margin: 8px 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0; font-size: 13px; }
.legend .key { display: inline-block; width: 14px; height: 11px; border-radius: 3px;
  margin-right: 6px; }
.key.leader { background: var(--leader); } .key.follower { background: var(--follower); }
.key.other { background: var(--other); } .key.down { background: var(--down); }
.key.paused { background: var(--paused); } .key.lost { background: var(--lost); }
.key.applied, .key.refused, .key.unknown { width: 9px; height: 9px; border-radius: 50%; }
.key.applied { background: var(--applied); } .key.refused { background: var(--refused); }
.key.unknown { background: var(--unknown); }
.timeline { display: block; width: 100%; height: auto; margin-top: 8px; }
.timeline text { font-size: 11px; fill: var(--ink); }
.timeline .lane { text-anchor: end; font-weight: 600; font-size: 12px; }
.timeline .tick { text-anchor: middle; fill: var(--muted); }
.timeline text.rule { text-anchor: end; fill: var(--muted); font-size: 9.5px; }
.timeline line.rule { stroke: var(--line); }
.timeline .grid { stroke: var(--line); stroke-dasharray: 2 4; }
.timeline .band { fill: var(--band); }
.timeline .fault { fill: var(--fault); opacity: 0.45; }
.timeline .quiet { fill: var(--quiet); opacity: 0.4; }
.timeline .leader { fill: var(--leader); } .timeline .follower { fill: var(--follower); }
.timeline .other { fill: var(--other); } .timeline .down { fill: var(--down); }
.timeline .paused { fill: var(--paused); } .timeline .lost { fill: var(--lost); }
.timeline .term { fill: var(--on-bar); font-size: 10.5px; }
.timeline .dot { fill: none; stroke-width: 2.6; stroke-linecap: round; opacity: 0.75; }
.timeline .dot.applied { stroke: var(--applied); }
.timeline .dot.refused { stroke: var(--refused); }
.timeline .dot.unknown { stroke: var(--unknown); }
.timeline .bar { opacity: 0.8; } .timeline .bar.applied { fill: var(--applied); }
.timeline .bar.refused { fill: var(--refused); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--muted); font-weight: 600; border-bottom: 1px solid var(--line);
  padding: 4px 10px 4px 0; vertical-align: bottom; }
td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
"""
