"""The step or the problem of each attack as it stands in its docstring, in LaTeX, for the pages of the reference.

J is the loss, Z the logits, y the label, x the image that is searched and x_0 the original.
"""

LINF_STEP = r"x \leftarrow \Pi\left(x + \alpha \operatorname{sign} g\right)"
MARGIN = r"\max_{i \neq y} Z_i(x) - Z_y(x)"

EQUATIONS = {
    "FGSM": r"x = \operatorname{clip}\left(x_0 + \varepsilon \operatorname{sign} \nabla_x J(x_0, y)\right)",
    "IFGSM": r"x \leftarrow \Pi\left(x + \alpha \operatorname{sign} \nabla_x J(x, y)\right)",
    "MIFGSM": r"g \leftarrow \mu\, g + \frac{\nabla_x J(x, y)}{\|\nabla_x J(x, y)\|_1}, \quad " + LINF_STEP,
    "PGD": r"x \leftarrow \Pi\left(x + \alpha\, s(\nabla_x J(x, y))\right), \quad "
    r"s(g) = \operatorname{sign} g \ (L_\infty), \quad s(g) = \frac{g}{\|g\|_2} \ (L_2)",
    "TPGD": r"x \leftarrow \Pi\left(x + \alpha \operatorname{sign} \nabla_x "
    r"\operatorname{KL}(p(x_0) \,\|\, p(x))\right)",
    "SparseL1Descent": r"x \leftarrow \Pi\left(x + \alpha \frac{e}{\|e\|_1}\right), \quad "
    r"e_i = \operatorname{sign}(g_i) \text{ where } |g_i| \text{ reaches the quantile, else } 0",
    "DeepFool": r"r = \frac{|f|}{\|w\|_q^q}\, |w|^{q-1} \operatorname{sign} w, \quad "
    r"f = Z_k - Z_y, \quad w = \nabla_x f, \quad k = \operatorname{argmin} \frac{|f|}{\|w\|_q}",
    "CW": r"\min_x\ \|x - x_0\|_2^2 + c \max\left(Z_y(x) - \max_{i \neq y} Z_i(x) + \kappa,\ 0\right)",
    "EAD": r"\min_x\ c \max\left(Z_y(x) - \max_{i \neq y} Z_i(x) + \kappa,\ 0\right) "
    r"+ \|x - x_0\|_2^2 + \beta \|x - x_0\|_1",
    "DDN": r"\delta \leftarrow \delta + \alpha \frac{\nabla_x J}{\|\nabla_x J\|_2}, \quad "
    r"\delta \leftarrow \rho \frac{\delta}{\|\delta\|_2}, \quad \rho \leftarrow (1 \mp \gamma)\, \rho",
    "FMN": r"\delta \leftarrow \Pi\left(\delta + \alpha \frac{g}{\|g\|_2}\right), "
    r"\quad g = \nabla_x \left(" + MARGIN + r"\right)",
    "SPSA": r"g = \frac{1}{n} \sum_{i=1}^{n} \frac{J(x + \delta v_i) - J(x - \delta v_i)}{2 \delta}\, v_i, "
    r"\quad v_i \in \{-1, 1\}^D",
    "NES": r"g = \frac{1}{2 n \sigma} \sum_{i=1}^{n} \left(J(x + \sigma u_i) - J(x - \sigma u_i)\right) u_i, "
    r"\quad u_i \sim N(0, 1)",
    "NIFGSM": r"\tilde{x} = x + \alpha \mu\, g, \quad g \leftarrow \mu\, g + "
    r"\frac{\nabla_x J(\tilde{x}, y)}{\operatorname{mean} |\nabla_x J(\tilde{x}, y)|}, \quad " + LINF_STEP,
    "HopSkipJump": r"v \propto \sum_{b=1}^{B} \left(\varphi(x + \delta u_b) - \bar{\varphi}\right) u_b, \quad "
    r"\varphi = \pm 1",
}
