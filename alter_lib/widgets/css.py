"""The style sheet of the drawings: theme-neutral, since lines and text take the page's own colour."""

from ..plots.style import BLUE, RED

STYLE = f"""<style>
.alter-plan {{ line-height: 1.25; font-size: 12px; overflow-x: auto; container-type: inline-size; }}
.alter-plan .row {{ display: grid; grid-template-columns: 6.6em minmax(150px, 3fr) minmax(100px, 2fr); column-gap: 12px;
  border-radius: 3px; outline: 2px solid transparent; outline-offset: -1px; }}
.alter-plan .curve {{ grid-template-columns: 6.6em minmax(262px, 1fr); margin-top: 10px; }}
.alter-plan .name {{ padding: 3px 0 3px 1.5em; white-space: nowrap; position: relative; }}
.alter-plan .name b {{ display: inline-block; min-width: 1.4em; }}
.alter-plan .field {{ position: relative; }}
.alter-plan svg {{ display: block; width: 100%; height: 21px; }}
.alter-plan svg * {{ vector-effect: non-scaling-stroke; }}
.alter-plan .curve svg {{ height: 84px; border-bottom: 1px solid; border-left: 1px solid; }}
.alter-plan .on {{ fill: {BLUE}; }}
.alter-plan .off {{ fill: none; stroke: currentColor; stroke-opacity: .5; }}
.alter-plan .changed {{ stroke: {RED}; stroke-opacity: 1; stroke-width: 2px; }}
.alter-plan .hit {{ fill: transparent; }}
.alter-plan g:hover .hit {{ fill: currentColor; fill-opacity: .22; }}
.alter-plan g {{ cursor: pointer; outline: none; }}
.alter-plan g:focus .hit {{ stroke: currentColor; stroke-width: 2px; }}
.alter-named {{ line-height: 1.4; font-size: 13px; min-height: 1.4em; margin-top: 4px; }}
.alter-plan .line {{ fill: none; stroke: currentColor; stroke-width: 1.5px; }}
.alter-plan .rule {{ stroke: currentColor; stroke-dasharray: 5 4; stroke-opacity: .8; }}
.alter-plan .visit {{ stroke: currentColor; stroke-width: 1.5px; }}
.alter-plan .cursor {{ position: absolute; top: 0; bottom: 0; border-left: 2px solid {RED}; margin-left: -1px; }}
.alter-plan .at {{ position: absolute; transform: translateX(-50%); white-space: nowrap; }}
.alter-plan .head {{ font-size: 10.5px; }}
.alter-plan .head .name, .alter-plan .ends {{ align-self: end; }}
.alter-plan .heading {{ height: 1.3em; position: relative; }}
.alter-plan .ends {{ display: flex; justify-content: space-between; white-space: nowrap; }}
@container (max-width: 450px) {{ .heading:last-child, .ends span:nth-child(2) {{ display: none; }} }}
.alter-calls {{ display: flex; flex-wrap: wrap; gap: 2px; font-size: 11px; }}
.alter-calls span {{ border: 1px solid; border-radius: 2px; min-width: 1.5em; text-align: center; padding: 0 1px; }}
</style>"""
