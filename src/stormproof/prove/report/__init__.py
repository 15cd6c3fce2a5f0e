"""The report: terminal, HTML, JSON, JUnit and Markdown, all from one `Report`."""
