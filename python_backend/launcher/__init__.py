"""Starts the real ``tritonserver``, keeps it serving, and leaves nothing behind.

Reading order: ``installation`` (which server there is), ``command`` (how it is called), ``run`` (what one start
owns), ``server`` (one process: start, ready, stop), ``preflight`` (what must hold before), ``probe`` and
``watchdog`` (is it still answering), ``supervisor`` (all of it, with restarts), ``cli``. The launcher loads no model.
"""
