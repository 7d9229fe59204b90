"""The offline pages: report.html of a run, and one page that compares several."""
