"""`FactorizationMachine`: the engine as an estimator with the habits of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy import sparse

from lib.errors import ArrayError, ParameterError
from lib.fm import extensions, fitting, hyperparameters, wire
from lib.fm.conventions import available_if, suggesting
from lib.fm.fit import Training, seed_or_default
from lib.fm.hyperparameters import Hyperparameters
from lib.fm.labels import as_labels, as_targets, encoded, find_classes
from lib.fm.matrices import as_csr, as_numbers
from lib.fm.model import Model
from lib.fm.predicting import Predicting

DEFAULTS: Mapping[str, Any] = {
    "num_factors": 64,
    "epochs": 16,
    "mini_batch_size": 100,
    "bias_lr": 0.02,
    "bias_wd": 0.000001,
    "linear_lr": 0.0026,
    "linear_wd": 0.00007,
    "factors_lr": 0.0007,
    "factors_wd": 0.0009,
    "factors_init_sigma": 0.01,
}
"""Where the estimator differs from SageMaker's defaults: what the workflow's stage `03_train` ships."""


def _not_resumable(machine: Any) -> str:
    return "" if machine.algorithm == "adam" else f"algorithm={machine.algorithm!r} takes all rows at once"


class FactorizationMachine(Predicting):
    """A Factorization Machine of degree 2, for sparse data.

    ::

        y(x) = w0 + Σ_i w_i x_i + ½ Σ_f [(Σ_i v_if x_i)² − Σ_i v_if² x_i²]

    with a bias w0, a weight w_i and a vector v_i of k numbers for each feature; the last term is
    ``Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j`` (Rendle 2010).  A regressor's prediction is y(x), a classifier's probability of the
    second class ``1 / (1 + exp(-y(x)))``.

    It is trained as SageMaker's built-in algorithm trains: mini-batches, Adam with lazy updates (of the features
    active in the batch), learning rate and weight decay for each group.  With ``algorithm="bayesian"`` it is sampled
    instead (Rendle 2012): slower, but more accurate, without learning rates, and with intervals.

    Parameters are stored untouched and checked in `fit`.

    Parameters
    ----------
    num_factors : int
        Length k of a vector.
    predictor_type : {"regressor", "binary_classifier"}
        What is predicted: a number, or one of two classes.
    algorithm : {"adam", "bayesian"}
        How it is fitted.  The Bayesian one takes ``num_factors``, ``predictor_type``, ``samples``, ``burn_in``,
        ``rounds``, ``blocks``, ``seed``, ``threads``; the others have no effect on it.
    epochs, mini_batch_size : int
        Passes over the rows; rows of one update.
    bias_lr, linear_lr, factors_lr : float
        Learning rates of w0, w, V.  The defaults suit 100,000 and more rows of ratings; small data need larger ones:
        try ``lr_finder=0.1``.
    bias_wd, linear_wd, factors_wd : float
        Weight decay: the gradient is that of the mean loss of the batch plus wd · parameter.
    bias_init_method, linear_init_method, factors_init_method : {"normal", "uniform", "constant"}
        How each group begins: normal with deviation ``*_init_sigma``, uniform in ± ``*_init_scale`` (0.07 by
        default), or ``*_init_value``.
    clip_gradient, eps, rescale_grad : float or None
        Adam's bound for a gradient (None: no bound), its epsilon (1e-8), the factor of a batch's summed gradient
        (1 / mini_batch_size).
    use_bias, use_linear : bool
        Whether there are w0 and w; where not, they are 0.
    shuffle : bool
        Put the rows in random order first, once.  SageMaker trains in the order of its files, and an order
        that means something, such as by customer, costs accuracy.  It takes a copy of the rows.
    early_stopping : int
        End after so many epochs without a lower loss on ``fit(…, test=(X, y))``, and take the best one's model; 0 is
        never.
    lr_finder : float
        The share of the training that is first spent on finding a factor for the three learning rates; 0 is nothing.
    seeds : int
        Train so many models from different seeds and average them into one, of so many times k factors.
    fold : bool
        Bring that average back to k factors: an approximation.
    samples, burn_in : int
        Sweeps of the Bayesian algorithm after its first burn-in; those at the begin of each round that do not count.
    rounds : int, optional
        Into how many rounds its sweeps are divided; see `lib.fm.bayesian.Sampling`.
    blocks : sequence of int, optional
        Numbers of columns of the blocks that have a prior of their own, such as customers, films; guessed from the
        data by default.
    seed : int, optional
        Of all that is random; by default the environment variable REELBOOK_FM_SEED, or 0.  The same seed gives the
        same bits, for any number of threads.
    threads : int, optional
        The most threads; by default the environment variable REELBOOK_THREADS, or all processors.

    Attributes
    ----------
    model_ : Model
        The fitted model, which `explain`, `recommend` and `save` are methods of; of the Bayesian algorithm its
        posterior mean folded into one model, made when first asked for.
    history_ : list of dict
        The training metrics of each epoch (or sweep), each batch before its update; those of the test rows begin with
        ``test_``.
    classes_ : array, shape (2,)
        A classifier's classes, sorted; probabilities are of the second.
    n_iter_ : int
        Epochs (or sweeps) done.
    n_features_in_ : int
        Number of columns d.
    feature_names_in_ : object array, shape (d,)
        Their names, if X was a table with names.
    diagnostics_ : dict of Diagnostic
        Of the Bayesian algorithm: whether its chain has settled.

    References
    ----------
    Rendle, "Factorization Machines", ICDM 2010.
    Rendle, "Factorization Machines with libFM", ACM TIST 3 (2012).
    AWS, "How Factorization Machines Work", and its page of hyperparameters.

    Examples
    --------
    Four people rated films, one row a rating; the columns are Ann, Bob, Cy, Dot, Alien, Brazil, Casablanca.

    >>> import numpy as np
    >>> from lib import fm
    >>> X = np.array([
    ...     [1, 0, 0, 0, 1, 0, 0],
    ...     [1, 0, 0, 0, 0, 0, 1],
    ...     [0, 1, 0, 0, 1, 0, 0],
    ...     [0, 1, 0, 0, 0, 1, 0],
    ...     [0, 1, 0, 0, 0, 0, 1],
    ...     [0, 0, 1, 0, 1, 0, 0],
    ...     [0, 0, 1, 0, 0, 0, 1],
    ...     [0, 0, 0, 1, 0, 1, 0],
    ... ])
    >>> y = [5, 1, 5, 4, 2, 1, 5, 3]
    >>> machine = fm.FactorizationMachine(
    ...     num_factors=4, mini_batch_size=4, epochs=300, bias_lr=0.1, linear_lr=0.01, factors_lr=0.02
    ... )
    >>> machine.fit(X, y).predict(X).round()
    array([5., 1., 5., 4., 2., 1., 5., 3.], dtype=float32)
    >>> films = ["Alien", "Brazil", "Casablanca"]
    >>> machine.recommend({0: 1}, range(4, 7), n=1, names=films)["name"].tolist()  # for Ann
    ['Alien']
    """

    @suggesting
    def __init__(
        self,
        *,
        num_factors: int = DEFAULTS["num_factors"],
        predictor_type: str = "regressor",
        algorithm: str = "adam",
        epochs: int = DEFAULTS["epochs"],
        mini_batch_size: int = DEFAULTS["mini_batch_size"],
        bias_lr: float = DEFAULTS["bias_lr"],
        bias_wd: float = DEFAULTS["bias_wd"],
        bias_init_method: str = "normal",
        bias_init_scale: float | None = None,
        bias_init_sigma: float = 0.01,
        bias_init_value: float | None = None,
        linear_lr: float = DEFAULTS["linear_lr"],
        linear_wd: float = DEFAULTS["linear_wd"],
        linear_init_method: str = "normal",
        linear_init_scale: float | None = None,
        linear_init_sigma: float = 0.01,
        linear_init_value: float | None = None,
        factors_lr: float = DEFAULTS["factors_lr"],
        factors_wd: float = DEFAULTS["factors_wd"],
        factors_init_method: str = "normal",
        factors_init_scale: float | None = None,
        factors_init_sigma: float = DEFAULTS["factors_init_sigma"],
        factors_init_value: float | None = None,
        clip_gradient: float | None = None,
        eps: float | None = None,
        rescale_grad: float | None = None,
        use_bias: bool = True,
        use_linear: bool = True,
        shuffle: bool = True,
        early_stopping: int = 0,
        lr_finder: float = 0.0,
        seeds: int = 1,
        fold: bool = False,
        samples: int = 200,
        burn_in: int = 20,
        rounds: int | None = None,
        blocks: Sequence[int] | None = None,
        seed: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.num_factors = num_factors
        self.predictor_type = predictor_type
        self.algorithm = algorithm
        self.epochs = epochs
        self.mini_batch_size = mini_batch_size
        self.bias_lr = bias_lr
        self.bias_wd = bias_wd
        self.bias_init_method = bias_init_method
        self.bias_init_scale = bias_init_scale
        self.bias_init_sigma = bias_init_sigma
        self.bias_init_value = bias_init_value
        self.linear_lr = linear_lr
        self.linear_wd = linear_wd
        self.linear_init_method = linear_init_method
        self.linear_init_scale = linear_init_scale
        self.linear_init_sigma = linear_init_sigma
        self.linear_init_value = linear_init_value
        self.factors_lr = factors_lr
        self.factors_wd = factors_wd
        self.factors_init_method = factors_init_method
        self.factors_init_scale = factors_init_scale
        self.factors_init_sigma = factors_init_sigma
        self.factors_init_value = factors_init_value
        self.clip_gradient = clip_gradient
        self.eps = eps
        self.rescale_grad = rescale_grad
        self.use_bias = use_bias
        self.use_linear = use_linear
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.lr_finder = lr_finder
        self.seeds = seeds
        self.fold = fold
        self.samples = samples
        self.burn_in = burn_in
        self.rounds = rounds
        self.blocks = blocks
        self.seed = seed
        self.threads = threads

    @classmethod
    def from_sagemaker(
        cls, given: Mapping[str, Any], *, seed: int | None = None, threads: int | None = None
    ) -> FactorizationMachine:
        """Return a machine that trains as SageMaker's job of these hyperparameters does.

        What is not given is as SageMaker has it, not as this class has it, and rows are taken in their order.

        Parameters
        ----------
        given : mapping of str
            As of a training job: by SageMaker's names, values as strings or not.  ``feature_dim`` is taken from
            the data.
        seed, threads
            As of the class.

        Raises
        ------
        ParameterError
            A hyperparameter that there is not, or out of its range.
        """
        checked = hyperparameters.validate({"feature_dim": 1} | dict(given))
        known = cls._parameters()
        values = {name: getattr(checked, name) for name in hyperparameters.NAMES if name in known}
        beyond = checked.extensions.model_dump()
        return cls(**values, **beyond, shuffle=False, seed=seed, threads=threads)

    def fit(self, X: Any, y: Any, *, test: tuple[Any, Any] | None = None) -> FactorizationMachine:
        """Fit to examples, from the beginning, and return the machine.

        Parameters
        ----------
        X : scipy sparse matrix, array or table, shape (n, d)
            One row an example.  Every stored entry of a sparse matrix, and every entry of a dense array, makes its
            feature active in its batch.
        y : array, shape (n,)
            What to predict: numbers, or of a classifier two classes of any type.
        test : (X, y), optional
            Rows that are predicted after each epoch (or sweep), for ``history_`` and early stopping.

        Raises
        ------
        ParameterError
            A parameter out of its range, or parameters that do not go together.
        ArrayError
            Data that cannot be learnt from: which row and column is said.
        ModelError
            A training that diverges, or too little memory.
        """
        h = self._hyperparameters(1)
        if h.extensions.early_stopping and test is None:
            raise ParameterError(
                f"early_stopping={self.early_stopping} watches test rows, but there are none.",
                hint="Give them: fit(X, y, test=(X_test, y_test)).",
            )
        examples = self._examples(X)
        labels = as_labels(y, examples.shape[0], type(self).__name__)
        classes = find_classes(labels) if self._classifying else None
        h = self._hyperparameters(examples.shape[1])
        targets = _targets(labels, classes)
        tested = None if test is None else self._tested(test, classes, examples.shape[1])
        seed = seed_or_default(self.seed)
        sampling, model = None, None
        if h.extensions.bayesian:
            sampling, history = fitting.sample(
                examples,
                targets,
                h,
                rounds=self.rounds,
                blocks=self.blocks,
                seed=seed,
                threads=self.threads,
                test=tested,
            )
        else:
            examples, targets = self._ordered(examples, targets)
            model, history = fitting.train(examples, targets, h, seed=seed, threads=self.threads, test=tested)
        self._model, self._training, self._sampling = model, None, sampling
        self._note_columns(X, examples.shape[1])
        self._note_classes(classes)
        self.history_ = history
        self.n_iter_ = len(history)
        return self

    @available_if(_not_resumable)
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> FactorizationMachine:
        """Train on examples once, from where the machine stands, and return it.

        The optimizer's moments and count of updates are kept from call to call, also in a pickle; the first call
        after `fit` begins from its model with fresh ones.  Of the parameters the learning rates may be changed between
        calls.  Early stopping, the learning-rate finder and seeds have no effect here.

        Parameters
        ----------
        X : scipy sparse matrix, array or table, shape (n, d)
            One row an example.
        y : array, shape (n,)
            What to predict.
        classes : array, shape (2,), optional
            A classifier's two classes; needed in the first call unless both are in y.

        Raises
        ------
        ParameterError, ArrayError, ModelError
            As of `fit`.
        """
        begun = self.__sklearn_is_fitted__()
        if begun:
            self._checked_columns(X)
            if self._classifying != hasattr(self, "classes_"):
                raise ParameterError(
                    f"The machine was fitted as another predictor_type than {self.predictor_type}.",
                    hint="Use fit.",
                )
        examples = self._examples(X)
        h = self._hyperparameters(examples.shape[1])
        labels = as_labels(y, examples.shape[0], type(self).__name__)
        known = None
        if self._classifying:
            known = (
                self.classes_ if begun else find_classes(labels if classes is None else np.asarray(classes))
            )
        rows = self._ordered(examples, _targets(labels, known))
        training = self._training
        if training is None:
            training = Training(*rows, h, seed=seed_or_default(self.seed), threads=self.threads)
            if begun:
                training.restore(self._compatible_model(h))
        else:
            training.continue_with(*rows)
        fitting.warn_of_scale(training)
        training.set_learning_rates(bias=h.bias_lr, linear=h.linear_lr, factors=h.factors_lr)
        if not begun:
            self._note_columns(X, examples.shape[1])
            self._note_classes(known)
            self.history_, self.n_iter_ = [], 0
        self._training, self._model, self._sampling = training, None, None
        self.history_.extend(report.metrics for report in training.epoch(self.n_iter_) if report.ended)
        self.n_iter_ += 1
        return self

    def _compatible_model(self, h: Hyperparameters) -> Model:
        """Return the fitted model, if a training with these hyperparameters can go on from it."""
        model = self.model_
        if model.num_factors != h.num_factors:
            raise ParameterError(
                f"The fitted model has {model.num_factors} factors, num_factors is {h.num_factors}.",
                hint="Set num_factors to the model's, or use fit.",
            )
        return model

    def _hyperparameters(self, columns: int) -> Hyperparameters:
        """Return the checked hyperparameters for so many columns."""
        values = {name: getattr(self, name) for name in hyperparameters.NAMES if hasattr(self, name)}
        beyond = {name: getattr(self, name) for name in extensions.Extensions.model_fields}
        try:
            checked = extensions.Extensions(**beyond)
        except ValidationError as error:
            raise ParameterError(wire.first_problem(error, beyond)) from None
        extensions.check_together(checked, str)
        algorithm = {f"{extensions.PREFIX}algorithm": self.algorithm}
        h = hyperparameters.validate({"feature_dim": columns} | algorithm | values)
        return h.model_copy(update={"extensions": checked})

    def _examples(self, X: Any) -> sparse.csr_matrix:
        """Return training rows."""
        X = as_numbers(X)
        rows, columns = X.shape
        if not columns:
            raise ArrayError(
                f"The examples have 0 feature(s) (shape={X.shape}) while a minimum of 1 is required."
            )
        if not rows:
            raise ArrayError(f"The training data have no rows: 0 sample(s) (shape={X.shape}).")
        return as_csr(X, columns, keep_zeros=self.algorithm == "adam")

    def _ordered(self, X: sparse.csr_matrix, y: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return rows in the order in which they are trained on."""
        if not self.shuffle:
            return X, y
        order = np.random.default_rng(seed_or_default(self.seed)).permutation(len(y))
        return X[order], y[order]

    def _tested(
        self, test: Any, classes: np.ndarray | None, columns: int
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        try:
            X, y = test
        except (TypeError, ValueError):
            raise ParameterError("test is a pair of examples and labels: test=(X_test, y_test).") from None
        X = as_csr(X, columns)
        return X, _targets(as_labels(y, X.shape[0], type(self).__name__), classes)

    def _note_classes(self, classes: np.ndarray | None) -> None:
        if classes is not None:
            self.classes_ = classes
        elif hasattr(self, "classes_"):
            del self.classes_


def _targets(labels: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    return as_targets(labels) if classes is None else encoded(labels, classes)
