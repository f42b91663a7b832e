"""The pages of `aoq demo` and `aoq mine --report`: data in, one self-contained HTML file out."""
