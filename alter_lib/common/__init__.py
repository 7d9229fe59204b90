"""What every part of the library uses: kinds of errors, whole files, the commands' options, quiet notebooks."""
