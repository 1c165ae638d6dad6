"""A copy of one study on another machine's disk or in a bucket, from which it goes on where its machine vanishes.

    URL/mirror.json                          whose mirror it is
    URL/writers/ID/manifests/00000012-….json a generation: every file, with its parts; written last
    URL/writers/ID/parts/SHA256              contents, by their hash

A writer is the study's folder on one machine, and writes and deletes under its own id alone. Parts of a new generation
come first, its manifest then, and what only older ones had goes last: whoever reads finds a whole generation at any
moment, the new one or the one before.
"""
