"""The report as one HTML file: what is on the page, its charts and its pictures of cases."""
