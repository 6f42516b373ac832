"""What graph_report.py is made of: data, contestants, the measuring of them, and what is said of the numbers.

=============  =====================================================================================================
data           the three sets of rows, and moved copies of them
contestants    hardmine's graph, hnswlib, faiss and exact search behind one face: build, then lists at an effort
measuring      recall, and the two ways of timing: a sweep over all settings, a duel of the best of each
parts          curve, warm start and growth: which contestants on which data
grids          the settings that are tried
verdicts       targets, met or missed
pages          Markdown
picture        the plot
=============  =====================================================================================================
"""
