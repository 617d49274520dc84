//! How the page looks.

/// The page's style sheet. Colours are named once for each theme; contrast of text is at least 4.5 to 1 in both.
pub(super) const SHEET: &str = r#":root{--ground:#fff;--text:#1a1d21;--soft:#555d68;--line:#d9dde3;--band:#f4f6f8;--link:#0b5cad;
--good:#dff3e3;--good-text:#14532d;--bad:#fde5e1;--bad-text:#7f1d1d;--open:#f0f1f3;--open-text:#3f4650;--own:#1a1d21}
@media (prefers-color-scheme:dark){:root{--ground:#14171b;--text:#eceef1;--soft:#adb5c0;--line:#343a43;--band:#1c2026;--link:#79b8ff;
--good:#173a22;--good-text:#a7e8b8;--bad:#4a1c19;--bad-text:#ffc4bb;--open:#2a2f36;--open-text:#cfd4db;--own:#eceef1}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:76rem;padding:1.5rem 1.25rem 4rem;background:var(--ground);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
header p,section>p,.findings{max-width:56rem}
h1{margin:0 0 .5rem;font-size:1.9rem;line-height:1.2;overflow-wrap:anywhere}
h2{margin:2.5rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--line);font-size:1.35rem}
header p{margin:.25rem 0;color:var(--soft)}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:1rem 0 0;padding:0;list-style:none}
.findings{padding:0;list-style:none}
.findings li{display:grid;grid-template-columns:8rem 1fr;gap:.75rem;padding:.55rem 0;border-bottom:1px solid var(--line)}
.verdict{justify-self:start;align-self:start;padding:.05rem .55rem;border-radius:1rem;font-size:.85rem;font-weight:600;white-space:nowrap}
.holds{background:var(--good);color:var(--good-text)}
.fails{background:var(--bad);color:var(--bad-text)}
.undecided{background:var(--open);color:var(--open-text)}
@media (max-width:40rem){.findings li{grid-template-columns:1fr;gap:.25rem}}
.scroll{overflow-x:auto;margin:1rem 0 0}
.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{padding:0 0 .4rem;text-align:left;font-weight:600}
th,td{padding:.32rem .7rem;text-align:right;white-space:nowrap}
th:first-child,.text{text-align:left}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom;font-weight:600}
tbody th{font-weight:400}
tbody tr:hover{background:var(--band)}
tbody+tbody{border-top:1px solid var(--line)}
.group th{padding-top:.6rem;color:var(--soft);font-size:.85rem;font-weight:600}
tr.group:hover{background:none}
.star{position:absolute}
td u{text-underline-offset:3px}
.better{background:var(--good);color:var(--good-text)}
.worse{background:var(--bad);color:var(--bad-text)}
.own{outline:2px solid var(--own);outline-offset:-2px}
.note,figcaption{margin:.4rem 0 1.5rem;color:var(--soft);font-size:.88rem;max-width:56rem}
figure{margin:1rem 0}
figure svg{display:block;height:auto;max-width:none}
details{margin:.75rem 0}
summary{cursor:pointer;color:var(--link)}
.stage{margin-left:1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0;font-size:.9rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.88em}
pre{overflow-x:auto;padding:.75rem 1rem;background:var(--band);border-radius:6px;line-height:1.45}
.accepted{padding:.1rem 1rem;border-left:4px solid var(--bad-text);background:var(--bad);color:var(--bad-text)}
@media print{nav,summary{display:none}.scroll{overflow:visible}}
"#;
