"""Every RPC at its limits and beyond them, and what that costs other callers."""
