"""Every RPC at its limits and beyond them: what it costs whoever else has a call there."""
