"""Names as strangers may choose them, and a model whose layers have them."""

from __future__ import annotations

from onnx import ModelProto
from onnx_nets import Net

SCRIPT = "</script><img src=x onerror=\"document.title='broken'\">"
LONG = "long/" + "x" * 9_995
RIGHT_TO_LEFT = "שכבה/مرحبا\u202eabc"
EMOJI = "👩‍🔬🔥"
DOT = 'quote" -> "b\\" [label=<b>] \\'
CONTROL = "bell\x07\x1b[31m\nnext"
HTML = "<b>bold</b> &lt;port:n"
COMMAND = "::error file=a::%0Atext ##[warning]\x9b1m"
TABLE = "| a | `b` | [c](d) |"
NAMES = (SCRIPT, LONG, RIGHT_TO_LEFT, EMOJI, DOT, CONTROL, HTML, COMMAND, TABLE)


def model() -> ModelProto:
    """A block for each name, whose BN has it."""
    net = Net()
    x, channels = net.start(), 3
    for number, name in enumerate(NAMES):
        x = net.conv(f"conv_{number}", x, channels, 4, k=1)
        x = net.act(f"act {name}", net.norm(name, x, 4))
        channels = 4
    return net.build(x)
