"""``python -m chaos``."""

from chaos.cli import app
from chaos.interrupts import end_in_order

end_in_order()
app(prog_name="python -m chaos")
