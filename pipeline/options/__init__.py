"""How an option is declared: once, as a field of its command's options.

A command's options are a frozen pydantic dataclass. A field's type, its default, its bounds and the ``Option`` beside
them (``declaration``) give all there is: the flag and its line in ``--help`` (``command_line``), the key in a file for
``--config`` (``config_file``), and the check of a value, wherever it comes from. A new option is one field.

pydantic for the options, argparse for the command line, with the parser made from the fields. Others were tried with
the options of ``audit``, wall time, medians of 11 runs on an AMD EPYC (Zen 5) core, in seconds, Python's start among it:

    ===============================  ================  ======================
    from the same pydantic model     whymatch --help   whymatch audit --help
    ===============================  ================  ======================
    argparse                         0.11              0.11
    tyro 1.0                         0.09              0.12
    pydantic-settings 2.16, its CLI  0.13              0.14
    jsonargparse 4.53                0.17              0.17
    ===============================  ================  ======================

The whole of whymatch takes 0.20 s of processor time for either (median of 15), since options import nothing that
computes: the names of methods, and what a method's parameters are by default, stand in the words of ``--help``, and a
test holds them to the methods. All are fast enough; what decided is what they read and how they complain. ``--map-size 28x28``, ``--method a,b``,
``--columns a=b,c=d`` and ``--memory-limit 4G`` are read by none but argparse without a converter an option, and
jsonargparse wants a tuple in brackets. A wrong value: argparse says ``argument --top: invalid int value: 'x'``, tyro
the same in a box of 9 lines, pydantic-settings shows a traceback, jsonargparse spoke of the first option, which was
right. tyro alone offers the nearest flag for a wrong one.
"""
