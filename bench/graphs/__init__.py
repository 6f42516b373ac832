"""The modules of graph_report.py: data, contestants, measurement, and presentation of the numbers.

=============  =====================================================================================================
data           the three data sets, and moved copies of them
contestants    hardmine's graph, hnswlib, faiss and exact search behind one interface: build, then lists at an effort
measuring      recall, and two ways of timing: a sweep over all settings, then the fastest settings head to head
parts          curve, warm start and growth: which contestants run on which data
grids          the settings to try
verdicts       targets, met or missed
pages          the Markdown
picture        the plot
=============  =====================================================================================================
"""
