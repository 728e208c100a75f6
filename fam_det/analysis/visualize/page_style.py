"""How the page looks: dark on light, one column on a phone, nothing from elsewhere."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #57606a; --line: #d8dee4; }
* { box-sizing: border-box; }
body {
  background: #fff; color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1500px; overflow-wrap: anywhere; padding: 1rem;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { border-top: 1px solid var(--line); font-size: 1.3rem; }
h2 { margin: 2.5rem 0 .5rem; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.lead { font-size: 1.1rem; }
.quiet, figcaption { color: var(--quiet); }
nav a { color: #0b5cad; display: inline-block; margin-right: 1.25rem; padding: .4rem 0; }
table { border-collapse: collapse; margin: .75rem 0; }
td, th { border-top: 1px solid var(--line); padding: .3rem 1.25rem .3rem 0; text-align: left; }
td + td { font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: top; white-space: nowrap; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; padding-top: .25rem; }
figcaption b { color: var(--ink); display: block; }
img { display: block; height: auto; width: 100%; }
.row { display: grid; gap: 1rem; grid-template-columns: minmax(0, 32rem); }
@media (min-width: 36rem) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (min-width: 64rem) {
  .row { grid-template-columns: repeat(var(--columns), minmax(0, 32rem)); }
}
.maps { display: grid; gap: .25rem .5rem; max-width: calc(var(--columns) * 14rem); }
.maps { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.maps > b { align-self: end; font-size: .9rem; line-height: 1.25; overflow-wrap: break-word; }
.maps > .level { color: var(--quiet); font-size: .9rem; grid-column: 1 / -1; padding-top: .5rem; }
.maps img { image-rendering: pixelated; }
.maps figcaption { font-size: .8rem; padding: .1rem 0 .25rem; }
.bar {
  background: linear-gradient(to right, #440154, #3b528b, #21918c, #5ec962, #fde725);
  display: inline-block; height: .7em; margin: 0 .3em; width: 5em;
}
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.key { list-style: none; margin: .75rem 0; padding: 0; }
.key span { border: 3px solid; border-radius: 3px; display: inline-block; height: 1em; width: 1em; }
.key span { margin-right: .4em; vertical-align: -.15em; }
@media (max-width: 40rem) { .maps > b { font-size: .75rem; } }
"""
