"""All that depends on the version of JAX, or is not part of its public interface.

Each entry says why it is here, for which versions, and when it can go.
"""

# The logger to which JAX reports an exception in a callback before it raises it again.
# Needed to keep a failing runtime check from being printed twice; JAX 0.7.2 to 0.10.
# It can go when JAX raises without logging.
CALLBACK_LOGGER = "jax._src.callback"
