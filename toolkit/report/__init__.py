"""The paper's tables on this family: what is compared, how it is measured, the page that says what came out.

rows        the methods compared, and what each may choose on validation pairs
pictures    who draws them (gateway or reference), and the cache of pictures outside git
scores      one line a picture, one CSV a row
measure     drawing and scoring whatever is missing
choice      each row's parameters, chosen on validation pairs
agreement   the same pictures from the gateway and from the reference
claims      what the paper and this family promise, and whether it holds
plots, page the page, from the committed CSVs alone
"""
