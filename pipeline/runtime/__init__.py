"""What every stage needs: paths, parameters, files, progress and errors. It changes no result."""
