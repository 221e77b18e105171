"""How an option is declared: once, as a field of its command's options.

A command's options are a frozen pydantic dataclass. A field's type, its default, its bounds and the ``Option`` beside
them (``declaration``) give all there is: the flag and its line in ``--help`` (``command_line``), the key in a file for
``--config`` (``config_file``), and the check of a value, wherever it comes from. A new option is one field.

pydantic for the options, argparse for the command line, with the parser made from the fields. Others were tried with
the 42 options of ``audit`` on two AMD EPYC (Zen 5) cores with other work on them: wall time in seconds with Python's
start, medians of 11 runs. tyro was given a plain dataclass, the others a pydantic model:

    ===============================  ================  ======================
                                     whymatch --help   whymatch audit --help
    ===============================  ================  ======================
    argparse made from the fields    0.11              0.11
    tyro 1.0                         0.09              0.12
    pydantic-settings 2.16, its CLI  0.13              0.14
    jsonargparse 4.53                0.17              0.17
    ===============================  ================  ======================

All are fast enough; what decided is what they read and how they complain, as they come, without a converter an option:

- tyro reads ``--manifest a b``, but ``--method a,b`` as one name, and no ``--columns a=b,c=d``, ``--map-size 28x28`` or
  ``--memory-limit 4G``. Its errors are the best, in boxes, and name the nearest flag for a wrong one.
- pydantic-settings reads ``--method a,b``, ``--columns a=b,c=d`` and repeated settings, but no ``--manifest a b``,
  ``28x28`` or ``4G``. A wrong or missing value ends in a traceback unless it is caught and told anew.
- jsonargparse reads none of these (lists are ``[a,b]``), and quotes pydantic, with its web address, for a value.
- argparse takes each of these formats for a ``type``, ``nargs`` or ``action``, which ``formats`` declares beside the
  Python type, where a config file's values need it too. A wrong value: ``argument --top: invalid int value: 'x'``.

Options import nothing that computes, but for the metrics' registry, which ``whymatch evaluate --help`` lists: the names
of methods, and the defaults of their parameters, stand in the words of ``--help``, and a test holds them to the
methods. So ``whymatch --help`` takes 0.19 s, ``whymatch audit --help`` 0.18 s and ``whymatch evaluate --help`` 0.24 s
(medians of 11 on that machine, quiet).
"""
